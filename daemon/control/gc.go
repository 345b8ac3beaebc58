package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"vcn/api"
	"vcn/fsm"
)

const (
	// gcEvery is the pace of looking after image builds, while there are any.
	gcEvery = 2 * time.Second
	// gcIdle is how long it sleeps while the state does not move.
	gcIdle = time.Minute
	// buildTriesMax is how many builders one image gets in one term, before
	// the reservations that need it fail.
	buildTriesMax = 3
	// buildRetryAfter is how long a failed build rests before another host
	// gets it: the builder itself tries again meanwhile, and that suffices
	// against what passes by itself.
	buildRetryAfter = 20 * time.Second
	// reviveAfter is how long an image that only dead hosts have is waited for:
	// they come back sooner than it is built, and with the same content.
	reviveAfter = 5 * time.Minute
	// buildFailAfter is how long an image stays failed, once nobody is left to try, before its reservations fail.
	buildFailAfter = 30 * time.Second
)

// buildWatch is what the leader remembers of one unbuilt image. It begins with
// the term: a new leader gives a failed image all its tries again.
type buildWatch struct {
	failedSince time.Time // its first failure with this builder; the builder goes on trying meanwhile
	builder     string
	tries       int
	tried       []string
}

// collector decides about image builds. It is pure: state and time in,
// commands out.
type collector struct {
	watched map[string]*buildWatch
	missed  map[string]time.Time // built images that no living host has, since when
}

// look returns the commands to send: another builder where one is dead, gone
// or has failed, and the end of reservations whose image cannot be built.
func (g *collector) look(v *fsm.View, now time.Time) []fsm.Command {
	var out []fsm.Command
	load := buildLoad(v)
	live := map[string]bool{}
	for _, img := range v.Images() {
		if img.State == fsm.ImageReady {
			out = append(out, g.revive(v, img, load, now)...)
			continue
		}
		if img.State == fsm.ImageFailed && img.Builder == "" {
			continue // given up; it rests until somebody wants it again
		}
		live[img.Recipe] = true
		w := g.watched[img.Recipe]
		if w == nil {
			w = &buildWatch{builder: img.Builder, tries: 1, tried: []string{img.Builder}}
			g.watched[img.Recipe] = w
		}
		if img.Builder != w.builder {
			w.builder, w.failedSince = img.Builder, time.Time{}
		}
		if img.State == fsm.ImageFailed && w.failedSince.IsZero() {
			w.failedSince = now
		}
		out = append(out, g.judge(v, img, w, load, now)...)
	}
	for recipe := range g.watched {
		if !live[recipe] {
			delete(g.watched, recipe)
		}
	}
	return out
}

// revive has an image built again that no living host has any more and that a
// live reservation waits for.
func (g *collector) revive(v *fsm.View, img fsm.Image, load map[string]int, now time.Time) []fsm.Command {
	have := v.ImageHosts(img.Recipe)
	if slices.ContainsFunc(have, func(id string) bool { return !builderGone(v, id) }) || len(waiting(v, img.Recipe)) == 0 {
		delete(g.missed, img.Recipe)
		return nil
	}
	since, ok := g.missed[img.Recipe]
	if !ok {
		since = now
		g.missed[img.Recipe] = now
	}
	if len(have) > 0 && now.Sub(since) < reviveAfter {
		return nil
	}
	next := chooseBuilder(v, load, "")
	if next == "" {
		return nil
	}
	load[next]++
	delete(g.missed, img.Recipe)
	return []fsm.Command{fsm.ImageAssign{Recipe: img.Recipe, Builder: next}}
}

// waiting lists the reservations that cannot be provisioned without the image.
func waiting(v *fsm.View, recipe string) []fsm.Reservation {
	var out []fsm.Reservation
	for _, r := range v.Reservations(fsm.ReservationFilter{}) {
		if r.State != api.StateBooked && r.State != api.StateProvisioning {
			continue
		}
		for _, have := range r.Recipes {
			if have == recipe {
				out = append(out, r)
				break
			}
		}
	}
	return out
}

func (g *collector) judge(v *fsm.View, img fsm.Image, w *buildWatch, load map[string]int, now time.Time) []fsm.Command {
	gone := builderGone(v, img.Builder)
	// While it is being tried again that is waited for.
	failed := img.State == fsm.ImageFailed && now.Sub(w.failedSince) >= buildRetryAfter
	if !gone && !failed {
		return nil
	}
	// A builder that died costs no try: it says nothing about the image.
	if failed && !gone && w.tries >= buildTriesMax {
		return g.giveUp(v, img, w, now)
	}
	next := chooseBuilder(v, load, img.Builder, w.tried...)
	if next == "" {
		next = chooseBuilder(v, load, img.Builder) // all have tried: any other once more
	}
	if next == "" {
		if failed {
			return g.giveUp(v, img, w, now)
		}
		return nil // nobody can build now; wait for a host
	}
	if failed && !gone {
		w.tries++
	}
	w.builder, w.failedSince = next, time.Time{}
	w.tried = append(w.tried, next)
	load[next]++
	return []fsm.Command{fsm.ImageAssign{Recipe: img.Recipe, Builder: next}}
}

// giveUp fails the reservations that wait for an image nobody could build, and
// lets its last builder rest.
func (g *collector) giveUp(v *fsm.View, img fsm.Image, w *buildWatch, now time.Time) []fsm.Command {
	if now.Sub(w.failedSince) < buildFailAfter {
		return nil
	}
	why := img.Message
	if why == "" {
		why = "the builder said no more"
	}
	var out []fsm.Command
	for _, r := range waiting(v, img.Recipe) {
		out = append(out, fsm.ReservationFail{ID: r.ID, Message: fmt.Sprintf(
			"the image of appliance %s (%s) could not be built: %s", img.Appliance, strings.Join(img.Rolls, " "), why)})
	}
	return append(out, fsm.ImageAssign{Recipe: img.Recipe})
}

func builderGone(v *fsm.View, id string) bool {
	h, ok := v.Host(id)
	return !ok || h.Status != fsm.HostAlive
}

// buildLoad counts the images each host is to build.
func buildLoad(v *fsm.View) map[string]int {
	load := map[string]int{}
	for _, img := range v.Images() {
		if img.State != fsm.ImageReady && img.Builder != "" {
			load[img.Builder]++
		}
	}
	return load
}

// chooseBuilder returns the host to build an image: alive, not cordoned, of
// class storage if there is one (there the image is wanted next), with the
// fewest builds; the first by id of equals. Empty if there is none besides
// those to avoid.
func chooseBuilder(v *fsm.View, load map[string]int, not string, avoid ...string) string {
	best, bestScore := "", 0
	for _, h := range v.Hosts() {
		if unusable(h) != "" || h.ID == not || slices.Contains(avoid, h.ID) {
			continue
		}
		score := 1 + load[h.ID]
		if !slices.Contains(h.Classes, api.ClassStorage) {
			score += 1 << 20
		}
		if best == "" || score < bestScore {
			best, bestScore = h.ID, score
		}
	}
	return best
}

// runGC looks after image builds. Expired tokens, keys and closed reservations
// are the clockwork's: they are deadlines in the state.
func (c *Control) runGC(ctx context.Context) error {
	g := collector{watched: map[string]*buildWatch{}, missed: map[string]time.Time{}}
	for ctx.Err() == nil {
		v := c.cfg.State.View()
		for _, cmd := range g.look(v, c.cfg.Now()) {
			switch _, err := c.apply(ctx, cmd); {
			case err == nil:
				c.cfg.Log.Info("look after images", "command", fmt.Sprintf("%T %+v", cmd, cmd))
			case ctx.Err() == nil:
				c.cfg.Log.Warn("look after images", "command", fmt.Sprintf("%T", cmd), "err", err)
			}
		}
		sleep(ctx, gcEvery)
		if len(g.watched)+len(g.missed) == 0 {
			c.watch(ctx, v.Index(), gcIdle)
		}
	}
	return ctx.Err()
}
