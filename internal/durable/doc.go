// Package durable writes files so that a crash leaves either the old content
// or the new, never a part.
//
// It imports nothing of ours.
//
//	data ──▶ temporary file beside ──fsync──▶ rename ──▶ fsync of the directory
package durable
