// What a step needs and does not keep, on the CPU: one workspace a thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cpu/memory.h"
#include "engine/setup.h"

namespace iql::engine {

// Panel matrices of B rows unless said otherwise.
template <class T, class Operand>
struct Workspace {
  // For a thread of teams with so many blocks of rows and so many slots (Teams::needs).
  Workspace(const Setup<T, Operand>& setup, int blocks, std::size_t slots);

  struct Saved {  // a trained network's activations and their gradients, layer by layer
    std::vector<Buffer<Operand>> activation, gradient;
    // The columns of the gradients past the first layer's, and the blocks of rows in which they are
    // listed.
    std::vector<cpu::ListBuffer<Operand>> columns;
    std::vector<std::vector<char>> listed;
  };
  struct Head {
    Buffer<T> out, d_out;  // [B][outputs]
  };
  Buffer<T> input, next_input;           // observation ++ action; next observation
  Buffer<T> reward, mask;                // [B]
  Buffer<T> q, v, v_next;                // [B]: min of the targets; V that the losses read
  Buffer<T> target_q;                    // [B]: one target critic
  std::vector<Saved> saved;              // by Team::slot
  std::vector<Head> heads;               // by NetworkId
  std::vector<Buffer<Operand>> scratch;  // [layer] of a block of rows: a forward that keeps nothing
  cpu::ListBuffer<Operand> row_lists;    // of a block of rows: the operand of one product
  Buffer<T> list_room;                   // of that product
  Buffer<Operand> room;                  // of a dense one
  Buffer<T> gradient;                    // of the weights and biases of one update
  Buffer<T> d_log_std;                   // [B][A]
  Buffer<T> value_loss, advantage, weight, actor_loss, critic_loss;  // [B]
  std::vector<char> clipped;                                         // [B]
  std::vector<std::int64_t> rows;                                    // [B]
};

}  // namespace iql::engine
