package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"vcn/api"
)

// connectError is an attempt that brought no answer.
type connectError struct {
	host string
	sent bool // the request may have reached the host
	err  error
}

func (e *connectError) Error() string { return e.host + ": " + e.err.Error() }
func (e *connectError) Unwrap() error { return e.err }

func asConnectError(ctx context.Context, host string, err error) error {
	var timeout *connectError
	if errors.As(context.Cause(ctx), &timeout) {
		return &connectError{host: host, sent: true, err: timeout.err}
	}
	var op *net.OpError
	sent := !(errors.As(err, &op) && op.Op == "dial") && !errors.Is(err, ErrWrongCluster)
	return &connectError{host: host, sent: sent, err: trimURL(err)}
}

// trimURL takes off net/http's repetition of method and address.
func trimURL(err error) error {
	var wrapped *url.Error
	if errors.As(err, &wrapped) && wrapped.Err != nil {
		return wrapped.Err
	}
	return err
}

// busyError is an answer that says: not now.
type busyError struct {
	problem *api.Problem
	after   time.Duration
}

func (e *busyError) Error() string { return e.problem.Error() }
func (e *busyError) Unwrap() error { return e.problem }

// readProblem turns an answer that is no success into an error.
func readProblem(host string, resp *http.Response) error {
	p := &api.Problem{}
	data, err := io.ReadAll(io.LimitReader(resp.Body, problemSizeMax))
	if err != nil || json.Unmarshal(data, p) != nil || p.Detail == "" && p.Code == "" {
		p = &api.Problem{Detail: fmt.Sprintf("%s answered %s, which is not how a host of vcn answers errors", host, resp.Status)}
	}
	p.Status = resp.StatusCode
	if p.Code == "" {
		p.Code = api.CodeOf(resp.StatusCode)
	}
	switch resp.StatusCode {
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		s, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		return &busyError{problem: p, after: time.Duration(min(max(s, 0), 3600)) * time.Second}
	}
	return p
}

// failures are those of one round over the hosts.
type failures struct {
	last       error
	lastBusy   *busyError
	retryAfter time.Duration
	wrong      int // hosts of another cluster
	count      int
}

// add notes a failure. next says that another host may do better; again, that
// the request may be repeated.
func (f *failures) add(err error, repeatable bool) (next, again bool) {
	var busy *busyError
	var connect *connectError
	f.count++
	switch {
	case errors.As(err, &busy):
		f.last, f.lastBusy = err, busy
		f.retryAfter = max(f.retryAfter, busy.after)
		return true, repeatable || busy.problem.Status == http.StatusServiceUnavailable
	case errors.As(err, &connect):
		f.last = err
		if errors.Is(err, ErrWrongCluster) {
			f.wrong++
		}
		return true, repeatable || !connect.sent
	}
	return false, false
}

// hopeless: every host belongs to another cluster; waiting changes nothing.
func (f *failures) hopeless() bool { return f.count > 0 && f.wrong == f.count }

// err is the round's failure: what a host said, if one said something.
func (f *failures) err(hosts []string) error {
	switch {
	case f.lastBusy != nil:
		return f.lastBusy.problem
	case f.hopeless():
		return f.last
	case len(hosts) == 1:
		return fmt.Errorf("%w: %w", ErrUnavailable, f.last)
	}
	return fmt.Errorf("%w (tried %s); the last: %w", ErrUnavailable, strings.Join(hosts, ", "), f.last)
}
