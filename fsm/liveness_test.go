package fsm

import (
	"slices"
	"strings"
	"testing"
	"time"

	"vcn/api"
)

// workerImage is the record of the image that the workers are cloned from.
func workerImage(t *testing.T, w *world) Image {
	t.Helper()
	for _, img := range w.f.View().Images() {
		if img.Appliance == "worker" {
			return img
		}
	}
	t.Fatal("there is no image of appliance worker")
	return Image{}
}

func TestImageThatIsWantedAgainIsFoundWhereItStillIs(t *testing.T) {
	for name, back := range map[string]func(w *world, host string, before HostReport){
		"the host is called alive":            func(w *world, host string, _ HostReport) { w.must(HostStatusSet{host, HostAlive}) },
		"the host reports what it always had": func(w *world, _ string, before HostReport) { w.must(before) },
	} {
		t.Run(name, func(t *testing.T) {
			w := formed(t)
			w.must(w.lab("lab"))
			w.work(3, "a", "b", "c")
			img := workerImage(t, w)
			have := w.f.View().ImageHosts(img.Recipe)
			if len(have) == 0 || img.Digest == "" {
				t.Fatalf("image %+v on %v", img, have)
			}
			before := w.obedient(have[0])
			for _, h := range have {
				w.must(HostStatusSet{h, HostDead})
			}
			var other string
			for _, h := range []string{"a", "b", "c"} {
				if !slices.Contains(have, h) {
					other = h
				}
			}
			if other == "" {
				t.Fatal("every host has it whole")
			}
			w.must(ImageAssign{Recipe: img.Recipe, Builder: other})
			if got := workerImage(t, w); got.Digest != "" || got.Builder != other {
				t.Fatalf("image %+v, want it wanted of %s", got, other)
			}
			back(w, have[0], before)
			if got := workerImage(t, w); got.Digest != img.Digest || got.State != ImageReady || got.Builder != "" {
				t.Errorf("image %+v, want it ready with %s as before", got, img.Digest)
			}
		})
	}
}

func TestNodesOfARunningClusterDoNotDependOnTheImageRecord(t *testing.T) {
	w := formed(t)
	w.must(w.lab("lab"))
	w.work(3, "a", "b", "c")
	img := workerImage(t, w)
	before := map[string]Assignment{}
	for _, h := range []string{"a", "b", "c"} {
		before[h] = w.f.View().AssignmentFor(h)
		w.must(HostReport{Host: h, Applied: w.f.View().Index(), Objects: slices.DeleteFunc(w.obedient(h).Objects, func(o Object) bool { return o.Kind == KindImage })})
	}
	w.must(ImageAssign{Recipe: img.Recipe, Builder: "c"})
	w.must(HostReport{Host: "c", Applied: w.f.View().Index(), Objects: append(w.obedient("c").Objects,
		Object{Kind: KindImage, ID: img.Recipe, State: ObjReady, Digest: "built-later", SizeBytes: 1})})
	if now := workerImage(t, w); now.Digest == img.Digest {
		t.Fatalf("the image is still %+v", now)
	}
	for h, was := range before {
		for i, n := range w.f.View().AssignmentFor(h).Nodes {
			if !n.Run || n.ImageDigest != was.Nodes[i].ImageDigest {
				t.Errorf("%s of %s: run %v (%s), image %s, before %s", n.Node, h, n.Run, n.Wait, n.ImageDigest, was.Nodes[i].ImageDigest)
			}
		}
	}
}

func TestDeadHostHoldsBackOnlyItsOwnShare(t *testing.T) {
	w := formed(t)
	w.must(w.lab("lab"))
	w.work(3, "a", "b", "c")
	w.must(HostStatusSet{"c", HostDead})
	w.must(ReservationRelease{ID: "r1"})
	w.work(3, "a", "b")
	r := w.state("r1", api.StateEnding)
	if !r.NodesGone || !slices.Equal(r.Freed, []string{"a", "b"}) {
		t.Errorf("nodes gone %v, freed %v; want what the living hosts held to be gone and free", r.NodesGone, r.Freed)
	}
	if !strings.Contains(r.Message, "host-c") {
		t.Errorf("message %q does not say who holds it back", r.Message)
	}
	for _, h := range []string{"a", "b"} {
		if a := w.f.View().AssignmentFor(h); len(a.Networks)+len(a.Volumes)+len(a.Nodes) != 0 {
			t.Errorf("%s keeps %+v", h, a)
		}
	}
	for _, b := range w.f.View().BookingsOf("r1") {
		if b.Host != "c" && b.Host != Identifiers {
			t.Errorf("%+v is still booked", b)
		}
	}
	if n := w.f.View().FreeVLANs(); n != 19 {
		t.Errorf("%d VLANs are free, want 19: c may still send frames of its own", n)
	}
	w.must(HostStatusSet{"c", HostAlive})
	w.work(2, "c")
	w.state("r1", api.StateEnded)
	w.pass(time.Minute)
}
