"""Made-up playlists in the format of MPD slices."""
