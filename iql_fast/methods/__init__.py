"""What is learned: one file a method."""
