"""Generation and scoring backends behind two small protocols; the only package that imports vllm."""
