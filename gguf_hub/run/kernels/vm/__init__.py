"""Programs of steps, and the machine that runs them."""
