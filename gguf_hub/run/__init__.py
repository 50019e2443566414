"""Running a model: kernels, model, tokenizer, chat, sampler, grammar and generation."""
