package api

// Quantity is a number of bytes, written with a binary unit: 512MiB, 4GiB.
// In JSON and YAML it is a string. The empty string is 0.
type Quantity int64
