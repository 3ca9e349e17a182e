"""Images, volumes and label maps on disk: strict reading, atomic writing. Knows numpy only."""
