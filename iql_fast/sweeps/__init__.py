"""Many runs as one: what they are, where they are trained, and what they come to."""
