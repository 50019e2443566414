"""An HTTP server for one model: OpenAI's interface, llama-server's, and a page (extra ``server``).

``scheduler`` decides what is computed next and knows nothing of HTTP; ``worker`` is the one thread
that computes; ``service`` turns requests into sequences; the rest is routes.
"""
