"""How fast a mount is, beside curl, a plain parallel downloader, the native disk, rclone and httpdirfs.

    python -m benchmarks                          all rows, both FUSE bindings, three times each
    python -m benchmarks --rows head,random       some rows
    python -m benchmarks --rows vast              the one that takes minutes, and is left out otherwise
    python -m benchmarks --quick                  all rows with small sizes, in about a minute
    python -m benchmarks --json figures.json      every sample, with the machine that made it
    make bench ARGS="--rows head --repeat 1"      the same after setting up what it needs

One process, the origin, serves everything that is read: the emulated API, and beside it the same files as a plain
tree for the programs that know no API. Latency and pace are the same for both, and so is the code that sends.
Every row has goals; the table says of each whether it is met. With --quick the figures say nothing.

What is common to all rows:
- Files are read by programs of their own with a deadline, never by this process, and every read is checked
  against a checksum of the file on disk.
- Names are looked up before the clock starts, but in the rows that are about names.
- "Cold" means a new mount with a new cache directory for each sample. What is served from the disk is dropped from
  the page cache first.
- A figure is the median of its samples. What the origin's pace alone decides (curl at 8.5 MB/s) is measured once.
- The request budget is the default one, unless the row says that it is off.

    __main__             the command line
    origin, client       the server process, and how it is asked for counters and told what to be
    files                what is served
    mounts, competitors  rescalefs, rclone and httpdirfs as mounts; curl and the downloader
    read, readers        the program that reads, and how it is run
    weight               the program that weighs the catalog
    bench, checks        what a row is given, and what it returns
    rows/                one function per row
    report               the table and the JSON
"""
