"""The documentation as a site: which pages it has beside docs/*.md, and those that are made from the code."""
