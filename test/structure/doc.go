// Package structure holds the tests of the project's own shape: the walls
// between rooms, a doc.go with a picture in every package, and the sizes of
// files and functions. It has no code of its own.
//
//	go.mod's tree ──parse──▶ imports, docs, sizes ──compare──▶ the rules below
package structure
