"""Looking into a language model: rows as tokens, hidden states, embeddings, answers.

What is made of these (scores, metrics, masks) belongs to the folders that make it.
"""
