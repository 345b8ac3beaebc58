package images

import (
	"bufio"
	"fmt"
	"io"
)

// cpioWriter writes the "newc" format that the kernel unpacks as initramfs
// (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).
type cpioWriter struct {
	w    *bufio.Writer
	n    int64
	ino  int
	fail error
}

const (
	cpioDir  = 0o040000
	cpioFile = 0o100000
)

func newCpioWriter(w io.Writer) *cpioWriter { return &cpioWriter{w: bufio.NewWriter(w)} }

func (c *cpioWriter) write(b []byte) {
	if c.fail != nil {
		return
	}
	n, err := c.w.Write(b)
	c.n += int64(n)
	c.fail = err
}

func (c *cpioWriter) pad() {
	for c.n%4 != 0 {
		c.write([]byte{0})
	}
}

// entry writes one member. Owner and times are 0: an initrd's bytes depend on
// its content alone.
func (c *cpioWriter) entry(name string, mode uint32, data []byte) {
	nlink := 1
	if mode&cpioDir == cpioDir {
		nlink = 2
	}
	if name != cpioTrailer {
		c.ino++
	}
	c.write(fmt.Appendf(nil, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		c.ino, mode, 0, 0, nlink, 0, len(data), 0, 0, 0, 0, len(name)+1, 0))
	c.write([]byte(name))
	c.write([]byte{0})
	c.pad()
	c.write(data)
	c.pad()
}

const cpioTrailer = "TRAILER!!!"

func (c *cpioWriter) dir(name string, perm uint32) { c.entry(name, cpioDir|perm, nil) }
func (c *cpioWriter) file(name string, perm uint32, data []byte) {
	c.entry(name, cpioFile|perm, data)
}

func (c *cpioWriter) close() error {
	c.entry(cpioTrailer, 0, nil)
	if c.fail == nil {
		c.fail = c.w.Flush()
	}
	return c.fail
}
