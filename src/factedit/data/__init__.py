"""Files of facts and text, read into the records of `factedit.facts`."""
