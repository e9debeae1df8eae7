"""From a trained model and an image to masks, label maps and scores (paper, Sec. 3.5 and 4.1)."""
