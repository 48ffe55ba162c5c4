"""Object stores as places of inputs and results: `gs://` and `s3://`.

The protocol. A unit is what appears at once on a local disk: a file, or the folder of a block or of a checkpoint. In
the bucket its files are objects under the names that they have on a disk, and one more object makes them valid:

    <root>/blocks/00003/000000.png ...   payload, first
    <root>/DONE/blocks/00003             the SHA-256 of each file, last; created only if absent
    <root>/LOCK/all, <root>/LOCK/part-*  who writes (`lease`)

Readers list DONE only, so what a killed process left is invisible, and the next commit of the unit overwrites it.
A single file is replaced in three steps: DONE that allows the old and the new hash, the file, DONE with the new one;
at every moment the file is one that DONE allows. Folders are never replaced. A unit is removed DONE first. Nothing is
renamed, and nothing is appended: lines added to a file are units of their own, and their order plays no part.

The working copy. Commands work in a private folder on a local disk (`mirror`), which at the start holds exactly the
committed units and reports each file that it completes. All readers, `ine verify` and reports are those of local
directories. An empty machine continues from the bucket alone. Images of blocks are downloaded when they are opened.

Inputs are copied into a cache under a name of their address and versions (`inputs`), and read from there by the same
checks as files from anywhere else.

The clients are those behind `etils.epath`: s3fs and gcsfs, through fsspec. `epath` itself has neither conditional
writes nor versions of objects, which the protocol and the cache are made of.
"""
