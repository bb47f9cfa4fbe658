"""What the interop cases stand on: processes, waiting, Kubo, pinnace, content, and the runner. No case lives here."""
