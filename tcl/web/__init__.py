"""The web page of `tcl web`: drop a picture, type words, see masks. Needs the extra `web` (Gradio)."""
