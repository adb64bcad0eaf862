"""The bytes of final files: fetched in parallel as they are read, verified, kept on disk.

    engine     what others use: open files, read them, verified
    handle     one open file
    fetching   plans transfers and runs them
    flight     what is on its way, who waits for what
    window     how far ahead of a reader to fetch
    streams    a bounded number of transfers, those with a reader first
    verify     whole-file checksums behind the readers' backs
    store      blocks on disk, or in memory while the disk has no room
    cache      segments on disk, least recently used first, shared by processes
    segment    one file of the cache, in blocks that carry checksums

Each knows only those below it.
"""
