// Package images builds, keeps and moves images: a root disk with software and
// no identity, the kernel and the tiny initrd that start it, and the manifest
// that says what is in it. It implements hostops.Images.
//
// It may import rolls and hostops, and runs the host's own tools: apt-get,
// mmdebstrap, mke2fs, unshare-like namespaces by clone flags.
//
//	Recipe ─▶ resolve with the host's apt sources ─▶ pool of .deb files ─▶ Lock
//	Lock ─▶ flat repository ─▶ base tree (mmdebstrap, kept by digest)
//	     ─▶ overlay: packages ─▶ roll files, units, scripts ─▶ strip secrets
//	     ─▶ mke2fs -d (sparse) + kernel + initrd (cpio) + manifest
//	     ─▶ Dir/<digest>/   by one rename
//	Export: Dir/<digest> ─▶ one zstd stream, data only ─▶ Import elsewhere
//
// After the packages are in the pool a build touches no network: every step
// runs in mount, process, network, host-name and IPC namespaces of its own.
// So a build that is cancelled, or whose daemon is killed, leaves neither a mount nor
// a process behind; the kernel takes them with the step's first process. What
// it does leave are directories, which the next build removes.
//
// # Layout
//
//	Dir/<digest>/{manifest.json lock.json contents.json root.img kernel initrd}
//	Dir/.build-*, Dir/.import-*    not finished; never listed
//	CacheDir/{lock apt/ base-<digest>/ work-*/}
//
// # Decisions and trade-offs
//
//   - The image's digest is that of its lock: recipe, exact packages with their
//     SHA-256, the init and the builder's version. Rejected: the digest of the
//     disk's bytes, which two builds of one lock do not share. Bytes have their
//     own digests in contents.json, and an import checks them.
//   - The root file system has a journal (16 MiB). Without one a node that is
//     fenced or loses its host would come back on a file system nobody has
//     checked: nothing in the guest runs fsck. It is small, because it is copied
//     with every disk.
//   - The initrd is not compressed: on an emulated processor unpacking costs
//     more than reading the 3 MB.
//   - The base tree is that of the recipe's first roll, so frontend and worker
//     share it, and every further roll costs seconds. Rejected: a tree per
//     recipe (20 s more each), and one tree per roll (order of overlays matters).
//   - Packages of all rolls are installed at once, then each roll's files, units
//     and scripts in order. One apt run instead of one per roll saves seconds; the
//     roll to blame is found by the package's name.
//   - dpkg leaves manual pages, locales and documentation out while unpacking
//     (licences stay), which also holds for packages the owner adds later.
//   - Mounts live in the steps' namespaces and nowhere else, so there is no clean-up
//     to forget. Rejected: mounts on the host with deferred unmounts.
//   - One build at a time per cache directory, across processes, by flock.
package images
