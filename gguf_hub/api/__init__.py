"""The surfaces for programs: ``Llama``, ``llama_cpp``, LangChain and the server."""
