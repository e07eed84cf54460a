"""The Spotify Million Playlist Dataset (MPD): slices of JSON."""
