// Package rolls is software and configuration as data: the roll format, its
// strict reader, the resolver from names to an ordered recipe, the secrets a
// cluster needs, and the rendering of one node's identity into its seed. The
// built-in rolls are embedded here.
//
// It is pure: it runs nothing and imports nothing of ours. Building an image
// from a recipe is hostops/images' work.
//
//	names ──Resolve──▶ Recipe{appliance, rolls} ──(hostops/images)──▶ image + Manifest
//	Cluster + Secrets + Manifest ──Render──▶ seed tar ──ISO──▶ seed ISO
package rolls
