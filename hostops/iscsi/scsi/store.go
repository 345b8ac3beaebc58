package scsi

import (
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/gostor/gotgt/pkg/api"
	"github.com/gostor/gotgt/pkg/config"
	gotgt "github.com/gostor/gotgt/pkg/scsi"
)

// storeType is the protocol part of our paths in gotgt's "protocol:path".
const storeType = "vcn"

// opening hands files to stores: gotgt opens a store by path, we have the file
// already. Keys live only while newLogicalUnit runs.
var (
	opening    sync.Map // string → File
	openingKey atomic.Uint64
	// gotgt's table of stores is a bare map, so units are made one at a time.
	makeUnit sync.Mutex
)

func init() {
	gotgt.RegisterBackingStore(storeType, func() (api.BackingStore, error) { return new(store), nil })
}

// newLogicalUnit makes gotgt's model of the unit over f.
func newLogicalUnit(f File, id uint64) (*api.SCSILu, error) {
	key := strconv.FormatUint(openingKey.Add(1), 10)
	opening.Store(key, f)
	defer opening.Delete(key)
	makeUnit.Lock()
	defer makeUnit.Unlock()
	lu, err := gotgt.NewSCSILu(&config.BackendStorage{
		DeviceID:         id,
		Path:             storeType + ":" + key,
		Online:           true,
		ThinProvisioning: true,
		BlockShift:       blockShift,
	})
	if err != nil {
		return nil, fmt.Errorf("make logical unit: %w", err)
	}
	return lu, nil
}

// store is a File as gotgt's model sees it.
type store struct {
	f    File
	size uint64
}

func (s *store) Open(_ *api.SCSILu, key string) error {
	v, ok := opening.Load(key)
	if !ok {
		return errors.New("open backing store: no file under this key")
	}
	s.f = v.(File)
	n, err := s.f.Size()
	if err != nil {
		return fmt.Errorf("size of backing store: %w", err)
	}
	s.size = uint64(n)
	return nil
}

// Close leaves the file open: the unit owns it.
func (s *store) Close(*api.SCSILu) error        { return nil }
func (s *store) Init(*api.SCSILu, string) error { return nil }
func (s *store) Exit(*api.SCSILu) error         { return nil }
func (s *store) Size(*api.SCSILu) uint64        { return s.size }

func (s *store) Read(off, n int64) ([]byte, error) {
	b := make([]byte, n)
	_, err := s.f.ReadAt(b, off)
	return b, err
}

func (s *store) Write(b []byte, off int64) error {
	_, err := s.f.WriteAt(b, off)
	return err
}

func (s *store) DataSync(int64, int64) error           { return s.f.Sync() }
func (s *store) DataAdvise(int64, int64, uint32) error { return nil }

func (s *store) Unmap(ds []api.UnmapBlockDescriptor) error {
	for _, d := range ds {
		if err := s.f.Zero(int64(d.Offset), int64(d.TL), true); err != nil {
			return err
		}
	}
	return nil
}
