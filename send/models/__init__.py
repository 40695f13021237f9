"""Looking into a language model: hidden states, embeddings, answers.

What is made of these (scores, metrics, masks) belongs to the folders that make it.
"""
