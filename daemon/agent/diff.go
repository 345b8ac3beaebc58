package agent

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"time"

	"vcn/fsm"
	"vcn/hostops"
)

// action is what one object needs: a step to run, or none, and what to report
// of it meanwhile.
type action struct {
	key     string // kind/id: at most one step at a time
	what    string // names the step; another name resets its backoff
	removes bool
	pool    pool
	paced   bool      // wanted again and again, when it says so itself
	due     time.Time // with run nil: look again then
	run     func(ctx context.Context, a *Agent, progress func(string)) error
	object  fsm.Object
}

// diffInput is all that diff looks at.
type diffInput struct {
	assign      fsm.Assignment
	live        bool
	seen        seen
	now         time.Time
	netted      map[int]string
	served      map[string]string
	ranAt       map[string]time.Time // when a node was first told to run; diff adds to it
	workerDelay time.Duration
	storage     bool
	attaches    bool                   // disks of other hosts are attached by this host's kernel
	guests      bool                   // commands can be run in nodes
	readyAt     map[string]time.Time   // when a frontend first answered; diff adds to it
	sums        map[string]string      // clusterSums of assign
	drains      map[string]*drainState // by reservation
}

// diff compares what is assigned with what is seen and returns one action for
// every object of either, sorted by key. It calls nothing.
func diff(in diffInput) []action {
	var acts []action
	acts = append(acts, diffImages(in)...)
	acts = append(acts, diffNetworks(in)...)
	if in.storage {
		acts = append(acts, diffVolumes(in)...)
	}
	acts = append(acts, diffNodes(in)...)
	acts = append(acts, diffDisks(in)...)
	acts = append(acts, diffDrains(in)...)
	acts = append(acts, diffNotices(in)...)
	slices.SortFunc(acts, func(a, b action) int { return cmp.Compare(a.key, b.key) })
	return acts
}

func diffNetworks(in diffInput) []action {
	var acts []action
	want := map[int]bool{}
	for _, n := range in.assign.Networks {
		want[n.VLAN] = true
		act := action{key: networkKey(n.VLAN), object: fsm.Object{
			Kind: fsm.KindNetwork, ID: strconv.Itoa(n.VLAN), Reservation: n.Reservation, State: fsm.ObjReady,
		}}
		got, ok := in.seen.networks[n.VLAN]
		if !ok || !got.Healthy || got.Reservation != n.Reservation || in.netted[n.VLAN] != digest(n) {
			act.what, act.run = "make network", ensureNetwork(n)
			if !ok || !got.Healthy {
				act.object.State, act.object.Message = fsm.ObjWorking, got.Detail
			}
		}
		acts = append(acts, act)
	}
	for vlan, n := range in.seen.networks {
		if want[vlan] {
			continue
		}
		act := action{key: networkKey(vlan), removes: true, object: fsm.Object{
			Kind: fsm.KindNetwork, ID: strconv.Itoa(vlan), Reservation: n.Reservation, State: fsm.ObjStopping,
		}}
		if in.live && !holdsDomain(in.seen, n.Reservation) {
			act.what, act.run = "remove network", removeNetwork(vlan)
		}
		acts = append(acts, act)
	}
	return acts
}

func holdsDomain(s seen, reservation string) bool {
	for _, d := range s.domains {
		if d.Reservation == reservation {
			return true
		}
	}
	return false
}

func diffVolumes(in diffInput) []action {
	var acts []action
	want := map[string]bool{}
	for _, v := range in.assign.Volumes {
		want[v.ID] = true
		acts = append(acts, diffVolume(in, v))
	}
	gone := map[string]bool{}
	for id := range in.seen.volumes {
		gone[id] = !want[id]
	}
	for id := range in.seen.exports {
		gone[id] = !want[id]
	}
	for id, isGone := range gone {
		if !isGone {
			continue
		}
		act := action{key: volumeKey(id), removes: true, object: fsm.Object{Kind: fsm.KindVolume, ID: id, State: fsm.ObjStopping}}
		if in.live {
			act.what, act.run = "remove volume", removeVolume(id)
		}
		acts = append(acts, act)
	}
	return acts
}

func diffVolume(in diffInput, v fsm.VolumeWork) action {
	act := action{key: volumeKey(v.ID), object: fsm.Object{
		Kind: fsm.KindVolume, ID: v.ID, Reservation: v.Reservation, Node: v.Node, Generation: v.Generation, State: fsm.ObjReady,
	}}
	got, have := in.seen.volumes[v.ID]
	exp, exported := in.seen.exports[v.ID]
	image, haveImage := in.seen.images[v.ImageDigest]
	switch {
	case !have && v.Made:
		// To clone it again would hand its users an empty disk as theirs.
		act.object.State, act.object.Message = fsm.ObjFailed, "its data is gone from this host's storage"
	case !have && v.ImageDigest == "":
		act.object.State, act.object.Message = fsm.ObjWaiting, "the image is being built"
	case !have && (!haveImage || image.Root == ""):
		act.object.State, act.object.Message = fsm.ObjWaiting, "the image is being fetched"
	case !have || got.SizeBytes < v.SizeBytes:
		act.what, act.run, act.pool = "make volume", makeVolume(v, image.Root), longSteps
		act.object.State, act.object.Message = fsm.ObjWorking, "cloning the image"
	case len(v.Access) > 0 && (!exported || exp.Generation != v.Generation || in.served[v.ID] != digest(v.Access)):
		act.what, act.run = "serve volume", serveVolume(v, got.Path)
		if !exported || exp.Generation != v.Generation {
			act.object.State, act.object.Message = fsm.ObjWorking, "publishing"
		}
	case len(v.Access) == 0 && exported:
		act.what, act.run = "stop serving volume", withdrawVolume(v.ID)
	case exp.Failed != "":
		// Publishing again heals an export whose file could not be opened; one
		// whose disk failed stays failed.
		act.what, act.run = "serve volume again", serveVolume(v, got.Path)
		act.object.State, act.object.Message = fsm.ObjFailed, exp.Failed
	case exp.Lost:
		act.object.Message = "this host lost power and with it what the node had written and not flushed: restart the node"
	}
	return act
}

func diffNodes(in diffInput) []action {
	var acts []action
	want := map[string]bool{}
	for _, n := range in.assign.Nodes {
		want[nodeKey(n.Reservation, n.Node)] = true
		acts = append(acts, diffNode(in, n))
	}
	for key, d := range in.seen.domains {
		if want[key] {
			continue
		}
		act := action{key: fsm.KindNode + "/" + key, removes: true, object: nodeObject(d.Reservation, d.Node, d.Generation, fsm.ObjStopping, "")}
		if in.live {
			act.what, act.run = "remove node", removeNode(d.Reservation, d.Node)
		}
		acts = append(acts, act)
	}
	for key := range in.seen.files {
		if _, runs := in.seen.domains[key]; runs || want[key] {
			continue
		}
		reservation, node, _ := strings.Cut(key, "/")
		act := action{key: fsm.KindNode + "/" + key, removes: true, object: nodeObject(reservation, node, 0, fsm.ObjStopping, "")}
		if in.live {
			act.what, act.run = "remove node", removeNode(reservation, node)
		}
		acts = append(acts, act)
	}
	for key := range in.ranAt {
		if !want[key] {
			delete(in.ranAt, key)
		}
	}
	for key := range in.readyAt {
		if !want[key] {
			delete(in.readyAt, key)
		}
	}
	return acts
}

func nodeObject(reservation, node string, generation uint64, state, msg string) fsm.Object {
	return fsm.Object{
		Kind: fsm.KindNode, ID: nodeKey(reservation, node), Reservation: reservation, Node: node,
		Generation: generation, State: state, Message: msg,
	}
}

func diffNode(in diffInput, n fsm.NodeWork) action {
	key := nodeKey(n.Reservation, n.Node)
	act := action{key: fsm.KindNode + "/" + key, object: nodeObject(n.Reservation, n.Node, n.Generation, fsm.ObjWaiting, "")}
	if n.Stop {
		return diffStop(in, n, act)
	}
	d, have := in.seen.domains[key]
	if have && d.Generation >= n.Generation {
		switch d.State {
		case hostops.DomainRunning:
			act.object.State = fsm.ObjBooting
			if d.Ready {
				act.object.State = fsm.ObjReady
				diffLive(in, n, &act)
			}
			return act
		case hostops.DomainPaused:
			// Stopped on an I/O error: it goes on once its disk answers again,
			// and stops again if it does not.
			act.object.State, act.object.Message = fsm.ObjPaused, d.Detail
			if nodeWaits(in, n) == "" {
				act.what, act.run = "resume node", startNode(n, in.assign.Clusters[n.Reservation], in.seen)
			}
			return act
		}
		act.object.State, act.object.Message = fsm.ObjOff, d.Detail
	}
	if wait := nodeWaits(in, n); wait != "" {
		if !have {
			act.object.Message = wait
		}
		return act
	}
	first, ok := in.ranAt[key]
	if !ok {
		first = in.now
		in.ranAt[key] = first
	}
	if !n.Frontend {
		if due := first.Add(in.workerDelay); due.After(in.now) {
			act.due, act.object.Message = due, "letting the frontend boot first"
			return act
		}
	}
	cluster := in.assign.Clusters[n.Reservation]
	act.what, act.run = "start node", startNode(n, cluster, in.seen)
	act.object.State, act.object.Message = fsm.ObjWorking, "starting"
	return act
}

// diffStop powers a node off cleanly and takes it from this host.
func diffStop(in diffInput, n fsm.NodeWork, act action) action {
	key := nodeKey(n.Reservation, n.Node)
	delete(in.ranAt, key)
	if _, runs := in.seen.domains[key]; !runs && !in.seen.files[key] {
		act.object.State = fsm.ObjOff
		return act
	}
	act.removes, act.object.State, act.object.Message = true, fsm.ObjStopping, "powering off"
	if in.live {
		act.what, act.run, act.pool = "stop node", stopNode(n.Reservation, n.Node), stopSteps
	}
	return act
}

// nodeWaits says what a node needs before it can start, or nothing.
func nodeWaits(in diffInput, n fsm.NodeWork) string {
	if !n.Run {
		if n.Wait != "" {
			return n.Wait
		}
		return "its volume is not ready"
	}
	if im, ok := in.seen.images[n.ImageDigest]; !ok || im.Kernel == "" {
		return "the kernel is being fetched"
	}
	if net, ok := in.seen.networks[n.VLAN]; !ok || !net.Healthy {
		return "the private network is not up"
	}
	if n.Portal == "" {
		if _, ok := in.seen.volumes[n.Volume]; !ok {
			return "its volume is not here yet"
		}
	}
	return ""
}

func diffImages(in diffInput) []action {
	var acts []action
	covered := map[string]bool{} // digests that an assigned image reports
	for _, w := range in.assign.Images {
		act := action{key: imageKey(w.Recipe), object: fsm.Object{Kind: fsm.KindImage, ID: w.Recipe, State: fsm.ObjReady}}
		digestHere := w.Digest
		if digestHere == "" {
			digestHere = in.seen.recipes[w.Recipe]
		}
		im, ok := in.seen.images[digestHere]
		switch {
		case ok && (im.Root != "" || w.BootOnly):
			act.object.Digest, act.object.SizeBytes, act.object.BootOnly = im.Digest, im.SizeBytes, im.Root == ""
			covered[im.Digest] = true
		case w.Build:
			act.what, act.run, act.pool = "build image", buildImage(w), longSteps
			act.object.State, act.object.Message = fsm.ObjWorking, "starting"
		case w.Digest == "" || len(w.Sources) == 0:
			act.object.State, act.object.Message = fsm.ObjWaiting, "another host builds it"
		default:
			act.what, act.run, act.pool = "fetch image", fetchImage(w), longSteps
			act.object.State, act.object.Message = fsm.ObjWorking, "fetching"
			act.object.BootOnly = w.BootOnly
		}
		acts = append(acts, act)
	}
	for d, im := range in.seen.images {
		if !covered[d] {
			acts = append(acts, action{key: "kept-image/" + d, object: fsm.Object{
				Kind: fsm.KindImage, ID: im.Recipe, State: fsm.ObjReady, Digest: d, SizeBytes: im.SizeBytes, BootOnly: im.Root == "",
			}})
		}
	}
	return acts
}

func networkKey(vlan int) string    { return fsm.KindNetwork + "/" + strconv.Itoa(vlan) }
func volumeKey(id string) string    { return fsm.KindVolume + "/" + id }
func imageKey(recipe string) string { return fsm.KindImage + "/" + recipe }

// digest identifies a value by its JSON, to tell whether it is what was last
// made so.
func digest(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic("agent: value cannot be encoded: " + err.Error()) // plain data always can
	}
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:8])
}
