"""Where policies are scored: simulators, reference scores, episodes."""
