"""What a person looks at after a run: plots and the model card."""
