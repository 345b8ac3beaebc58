//go:build !amd64

package facts

func rdtsc() uint64 { return 0 }
