"""The paper's figures and further analyses of frozen checkpoints: computed, drawn, and said in a sentence."""
