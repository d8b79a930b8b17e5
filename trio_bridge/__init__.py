"""A Trio bridge between meeting bots and AI sessions."""
