"""What runs on a GPU when there are minutes of one: a script for each stage; see README.md."""
