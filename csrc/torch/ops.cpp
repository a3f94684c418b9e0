// torch.ops.iql_fast: what the operators are called and what they take. A list `qs` holds critics,
// whose minimum is Q; `reduction` is torch's number of none (0), mean (1) or sum (2).
#include <torch/library.h>

TORCH_LIBRARY(iql_fast, m) {
  const std::vector<at::Tag> tags = {at::Tag::pt2_compliant_tag};

  m.def("expectile_loss(Tensor[] qs, Tensor v, float tau, int reduction) -> Tensor", tags);
  m.def(
      "expectile_loss_backward(Tensor d_loss, Tensor[] qs, Tensor v, float tau, int reduction)"
      " -> Tensor d_v",
      tags);

  m.def("awr_weights(Tensor[] qs, Tensor v, float beta, float clip) -> Tensor", tags);
  m.def(
      "awr_loss(Tensor[] qs, Tensor v, Tensor log_prob, float beta, float clip, int reduction)"
      " -> Tensor",
      tags);
  m.def(
      "awr_loss_forward(Tensor[] qs, Tensor v, Tensor log_prob, float beta, float clip,"
      " int reduction) -> (Tensor loss, Tensor d_log_prob)",
      tags);
  m.def(
      "awr_loss_backward(Tensor d_loss, Tensor[] qs, Tensor v, float beta, float clip,"
      " int reduction) -> Tensor d_log_prob",
      tags);
  m.def(
      "gaussian_awr_loss(Tensor[] qs, Tensor v, Tensor mean, Tensor log_std, Tensor action,"
      " float beta, float clip, int reduction) -> Tensor",
      tags);
  m.def(
      "gaussian_awr_loss_backward(Tensor d_loss, Tensor[] qs, Tensor v, Tensor mean,"
      " Tensor log_std, Tensor action, float beta, float clip, int reduction)"
      " -> (Tensor d_mean, Tensor d_log_std)",
      tags);

  m.def(
      "twin_q_loss(Tensor[] qs, Tensor r, Tensor mask, Tensor next_v, float discount,"
      " int reduction) -> Tensor",
      tags);
  m.def(
      "twin_q_loss_backward(Tensor d_loss, Tensor[] qs, Tensor r, Tensor mask, Tensor next_v,"
      " float discount, int reduction) -> Tensor[] d_qs",
      tags);

  m.def("polyak_update_(Tensor(a!)[] targets, Tensor[] params, float alpha) -> ()", tags);
  m.def(
      "adam_(Tensor(a!)[] params, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs,"
      " Tensor(d!)[] steps, Tensor(e!)[] targets, float lr, float beta1, float beta2, float eps,"
      " float weight_decay, float alpha) -> ()",
      tags);

  m.def("batch_rows_(Tensor(a!) state, int n, int rows) -> Tensor", tags);
  m.def("gather_rows(Tensor[] columns, Tensor rows) -> Tensor[]", tags);
  m.def(
      "dropout_factors(Tensor like, Tensor seeds, int step, int layer, float probability)"
      " -> Tensor",
      tags);

  m.def("stacked_linear(Tensor x, Tensor weight, Tensor bias, bool relu) -> Tensor", tags);
  m.def(
      "stacked_linear_backward(Tensor d_out, Tensor x, Tensor weight, Tensor out, bool relu,"
      " bool need_x) -> (Tensor d_x, Tensor d_weight, Tensor d_bias)",
      tags);

  m.def("stacked_mlp(Tensor x, Tensor[] weights, Tensor[] biases) -> Tensor", tags);
  m.def(
      "stacked_mlp_forward(Tensor x, Tensor[] weights, Tensor[] biases)"
      " -> (Tensor out, Tensor[] hidden)",
      tags);
  m.def(
      "stacked_mlp_backward(Tensor d_out, Tensor x, Tensor[] weights, Tensor[] hidden, bool need_x,"
      " bool need_weights) -> (Tensor d_x, Tensor[] d_weights, Tensor[] d_biases)",
      tags);
}
