"""What methods are judged on: one file per benchmark."""
