"""What comes from elsewhere: published data sets and the pictures of a catalogue."""
