package httpapi

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func (s *Server) registerMetrics() error {
	s.requests = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "vcn_http_requests_total", Help: "Requests answered, by method, route and status.",
	}, []string{"method", "route", "status"})
	s.seconds = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "vcn_http_request_seconds", Help: "Time to answer, long polls included.",
		Buckets: []float64{.001, .005, .02, .1, .5, 2, 10, 60},
	}, []string{"method", "route"})
	leads := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "vcn_leader", Help: "1 if this host leads.",
	}, func() float64 {
		if s.cfg.Cluster.IsLeader() {
			return 1
		}
		return 0
	})
	index := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "vcn_state_index", Help: "Raft index of the last command in this host's state.",
	}, func() float64 { return float64(s.cfg.State.View().Index()) })
	for _, c := range []prometheus.Collector{s.requests, s.seconds, leads, index} {
		if err := s.cfg.Registry.Register(c); err != nil {
			return fmt.Errorf("register metric: %w", err)
		}
	}
	return nil
}

// observe counts one answer. The route is a pattern, never the path itself: a
// label must not grow with what people ask.
func (s *Server) observe(r *http.Request, status int, took time.Duration) {
	route := r.Pattern
	if _, pattern := s.local.Handler(r); pattern != "" && pattern != "/" {
		route = pattern
	}
	method := r.Method
	if !slices.Contains(methods, method) {
		method = "other"
	}
	s.requests.WithLabelValues(method, route, strconv.Itoa(status)).Inc()
	s.seconds.WithLabelValues(method, route).Observe(took.Seconds())
}
