"""One file per source: each turns what people have on their disks into a Corpus folder."""
