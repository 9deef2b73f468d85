"""Networks from mixture features to embeddings, masks, voice vectors and talker activity."""
