"""The site's policy: what a plan may ask for here, as data that a person can read and anybody can replay."""
