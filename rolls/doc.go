// Package rolls is software and configuration as data: the roll format, its
// strict reader, the resolver from names to an ordered recipe, the secrets a
// cluster needs, and the rendering of one node's identity into its seed. The
// built-in rolls are embedded here.
//
// It is pure: it runs nothing and imports nothing of ours. Building an image
// from a recipe is hostops/images' work.
//
//	roll directories ──Load──▶ Catalog
//	names ──Catalog.Resolve──▶ Recipe{appliance, rolls} ──(hostops/images)──▶ image + Manifest
//	recipes + nodes + users ──MakeSecrets──▶ Secrets
//	Cluster (with Secrets) + node + Recipe + Manifest ──Render──▶ seed tar ──SeedISO──▶ seed ISO
//	                                                 └─RenderLive─▶ live tar ─(guest agent)─▶ running node
//
// # The seed
//
// The seed ISO has the volume label VCNSEED and two files: seed.tar, and
// seed.sha256 (64 lower-case hex digits of seed.tar, a newline). The tar has
// regular files and directories only, names without a leading slash, sorted, so
// that a directory stands before what is in it. Parents that no roll names are
// not in it: who applies it makes them, root:root 0755. Numeric owners and modes are final.
//
// Beside what the rolls' seed files say, every tar has these, and rolls may not
// name them:
//
//	etc/vcn/node.json       {"name","role","appliance","group","cluster","clusterID",
//	                        "project","image","rolls":["name@version"],"digest"}; image is
//	                        Manifest.Digest; digest covers all the rest of the tar: the
//	                        stamp by which the init knows that it has applied this seed
//	etc/vcn/net             one line per NIC, in order private, public: MAC CIDR [GATEWAY]
//	                        (the init may configure from this without systemd-networkd)
//	etc/vcn/accounts        passwd lines, name:x:uid:gid:gecos:home:shell; each user has a
//	                        group of its own name with the number gid. Merged in the guest
//	                        into passwd, group and shadow (locked password), never replacing
//	etc/vcn/admins          names of users who may use sudo, one per line (added to group sudo)
//	etc/vcn/ready.d/NN-roll shell script, mode 0755: exit 0 when that roll's part is ready.
//	                        Run all in order, again and again, until each has succeeded once;
//	                        only then open the guest agent's channel
//	etc/vcn/firstrun.d/NN-roll-SCRIPT
//	                        script, mode 0755, run once in order at first boot, before ready.d
//
// NN is the roll's place in the recipe (00 is base). accounts and admins may be
// empty; ready.d and firstrun.d may be absent. Everything else about a node
// (hostname, hosts, machine-id, ssh keys, resolv.conf, fstab, …) is a seed file
// of a roll, mostly of base.
//
// # The live part
//
// RenderLive's tar is what of the seed follows the cluster while the node runs: the
// live files, and etc/vcn/reload.d/NN-roll, run in order when a live file has
// changed. /usr/lib/vcn/live of roll base applies it in the node.
//
// # Templates
//
// Seed sources, ready and reload commands are text/template; an unknown field or key is
// an error. Data: .Cluster (ID, Name, Project, Subnet), .Node, .Frontend,
// .Workers, .Nodes ([]Node), .Users ([]User), and with forEach: user, .User.
// Functions: see docs/rolls.md, and funcs.go.
//
// # Decisions and trade-offs
//
//   - One secret, one owner: secrets are declared in roll.yaml and reached only by
//     name. Images never hold one (a FileSpec in files with secret is refused).
//   - Owners by name, resolved through the image's own passwd: system numbers
//     differ between images. Rejected: numbers in rolls.
//   - The order of a recipe does not depend on the order of names asked for, so
//     that the same set is the same image. Rejected: order as written.
//   - The resolver takes the highest version where nothing is pinned and pins where
//     something is; it does not search (no SAT). Rejected: version ranges, until
//     someone needs them.
//   - Two rolls that write one path, or enable and mask one unit, are refused when
//     resolved, not settled by order: the loser would be silently broken.
//   - All reload commands run when any live file has changed: almost everything
//     stands on base's /etc/hosts. Rejected: only those of the roll whose file it
//     was, which would leave a scheduler with the addresses of yesterday.
//   - slurm.conf holds names and no address. A cluster that comes back elsewhere
//     then has the same one, and its owner's changes to it stay.
//   - A recipe's digest covers whole rolls (also seeds): a few needless image builds
//     against ever running a seed on an image that was not made for it.
//   - The seed's ISO is staged in a private temporary directory (0700) by the
//     library that writes it, and removed before SeedISO returns.
package rolls
