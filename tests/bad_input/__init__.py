"""Generated bad input at every door: it ends in a documented error, and nothing is changed."""
