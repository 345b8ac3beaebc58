package httpapi

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"sync"
	"time"

	"vcn/api"
)

// Bounds of what is remembered of requests with an Idempotency-Key.
const (
	repliesMax = 1024      // answers, of all tokens together; the oldest goes
	replyLife  = time.Hour // as long as the longest hold
)

// replies remembers what requests with an Idempotency-Key were answered, on the
// routes whose keys the replicated state does not keep: a question for offers
// must not hold twice, nor two hours be added twice. It is this process's own:
// after a change of the leader a repeated request is a new one. That is why
// another host does not repeat such a request by itself (see repeatable).
type replies struct {
	mu    sync.Mutex
	known map[replyKey]*reply
	order []replyKey // by age, the oldest first; may hold some that are not known any more
}

type replyKey struct{ token, operation, key string }

type reply struct {
	request [sha256.Size]byte
	at      time.Time
	done    chan struct{} // closed when value and err are set
	value   any
	err     error
}

// enter returns the reply to a request, and true for who has to make it.
func (m *replies) enter(k replyKey, request [sha256.Size]byte, now time.Time) (*reply, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.order) > 0 {
		old := m.known[m.order[0]]
		if old != nil && len(m.order) < repliesMax && now.Sub(old.at) < replyLife {
			break
		}
		delete(m.known, m.order[0])
		m.order = m.order[1:]
	}
	if r := m.known[k]; r != nil {
		return r, false
	}
	r := &reply{request: request, at: now, done: make(chan struct{})}
	if m.known == nil {
		m.known = map[replyKey]*reply{}
	}
	m.known[k] = r
	m.order = append(m.order, k)
	return r, true
}

// forget lets a request that failed be tried again under the same key.
func (m *replies) forget(k replyKey, r *reply) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known[k] == r {
		delete(m.known, k)
	}
}

// once answers a request by f, or, if the same token has sent the same request
// under the same key before, by what was answered then. Failures are not
// remembered, but shared by those that wait for the same answer.
func once[T any](ctx context.Context, m *replies, operation, key, request string, f func() (T, error)) (T, error) {
	if key == "" {
		return f()
	}
	k := replyKey{principalOf(ctx).TokenID, operation, key}
	hash := sha256.Sum256([]byte(request))
	r, mine := m.enter(k, hash, time.Now())
	if mine {
		return answer(m, k, r, f)
	}
	var none T
	if r.request != hash {
		return none, newProblem(http.StatusConflict, api.CodeConflict, "this Idempotency-Key was used before, for another request", "use a new key for a new request")
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		return none, outcomeUnknown("the same request, sent before, is still being answered")
	}
	if r.err != nil {
		return none, r.err
	}
	return r.value.(T), nil
}

// answer makes a reply and wakes those that wait for it, whatever f does.
func answer[T any](m *replies, k replyKey, r *reply, f func() (T, error)) (out T, err error) {
	r.err = fmt.Errorf("answer %s: panic", k.operation) // unless f returns
	defer func() {
		if r.err != nil {
			m.forget(k, r)
		}
		close(r.done)
	}()
	out, err = f()
	r.value, r.err = out, err
	return out, err
}
