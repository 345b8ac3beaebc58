package targetd

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"vcn/hostops"
	"vcn/hostops/iscsi/initiator"
)

const (
	fightBlocks = 64
	fightReads  = 5
	fightPause  = 10 * time.Millisecond // between logins of who has lost
)

func TestGenerationsFight(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	generationsFight(t, r, newVolume(t, 1<<20), 20)
}

// generationsFight moves a volume from host to host, as evacuation and fencing
// do, while all that ever had it go on writing and logging in again: nothing of
// theirs lands once the next has logged in.
func generationsFight(t *testing.T, r *rig, path string, rounds int) {
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for n := 1; n <= rounds; n++ {
		e := testExport("fought", path, uint64(n))
		// Two hosts take turns; every generation has a secret of its own.
		e.Access[0].Initiator = fmt.Sprintf("%s-%d", testInitiator, n%2)
		e.Access[0].Secret = fmt.Sprintf("secret-of-round-%d", n)
		r.publish(e)
		c := r.configAs(e)
		k, err := initiator.Login(c)
		if err != nil {
			t.Fatalf("round %d: %v", n, err)
		}
		mark := bytes.Repeat([]byte{byte(n)}, fightBlocks*512)
		a, err := k.Write(0, mark)
		wantStatus(t, a, err, 0, 0)
		for range fightReads {
			a, err := k.Read(0, fightBlocks)
			wantStatus(t, a, err, 0, 0)
			if i := firstOther(a.Data, byte(n)); i >= 0 {
				t.Fatalf("round %d: block %d has what round %d wrote", n, i/512, a.Data[i])
			}
		}
		c.ISID[5]++ // else it reinstates, and cuts, the session above
		wg.Go(func() { fight(ctx, c, byte(n)) })
		eventually(t, "the host writes", func() bool {
			l, err := r.client.List(t.Context())
			return err == nil && len(l) == 1 && len(l[0].Sessions) > 0
		})
		_ = k.Close()
	}
}

// firstOther is where b differs from being all one byte; -1 if it does not.
func firstOther(b []byte, all byte) int {
	for i, x := range b {
		if x != all {
			return i
		}
	}
	return -1
}

// configAs logs in as the initiator of an export's first access entry.
func (r *rig) configAs(e hostops.Export) initiator.Config {
	c := r.config(e)
	c.Initiator = e.Access[0].Initiator
	return c
}

// fight writes a mark over and over, and logs in again whenever it is cut.
func fight(ctx context.Context, c initiator.Config, mark byte) {
	data := bytes.Repeat([]byte{mark}, 8*512)
	for ctx.Err() == nil {
		k, err := initiator.Login(c)
		if err != nil {
			time.Sleep(fightPause)
			continue
		}
		stop := context.AfterFunc(ctx, func() { _ = k.Close() })
		for i := uint64(0); err == nil; i++ {
			_, err = k.Write(i%8*8, data)
		}
		stop()
		_ = k.Close()
	}
}
