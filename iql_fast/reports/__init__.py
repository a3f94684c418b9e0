"""Pages about runs: what they tell, their figures, and how they look."""
