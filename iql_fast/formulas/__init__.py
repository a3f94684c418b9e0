"""What IQL computes, in plain torch and numpy: the specification of ``csrc/include/iql``."""
