"""What the repository needs beside the package: generated pages, snapshots, mutation tests."""
