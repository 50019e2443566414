"""tiny-mixtral: a Mixtral of 5.9 million weights, trained from scratch on generated stories."""
