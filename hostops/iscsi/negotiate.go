package iscsi

import (
	"strconv"
	"strings"
)

const (
	maxRecvBytes    = 256 << 10 // data segment we take
	maxSendBytes    = 1 << 20   // data segment we send at most
	maxBurstBytes   = 1 << 20
	firstBurstBytes = 256 << 10
	minSegmentBytes = 512
	loginDataBytes  = 8192 // data segment of a login PDU, and of an initiator that named none
)

// params are the operational parameters of a session (RFC 7143 13).
type params struct {
	digests
	initialR2T bool // unsolicited Data-Out is not allowed
	immediate  bool // data may come with the command
	maxSend    int  // bytes, MaxRecvDataSegmentLength of the initiator
	maxBurst   int  // bytes
	firstBurst int  // bytes
}

func defaultParams() params {
	return params{initialR2T: true, immediate: true, maxSend: loginDataBytes, maxBurst: 262144, firstBurst: 65536}
}

// negotiate answers operational keys. Digests come into force by the caller,
// after the last login response.
func (p *params) negotiate(t text, out *pairs) {
	for _, k := range t.keys {
		v := t.get(k)
		switch k {
		case keyInitiator, "InitiatorAlias", keyTarget, keySessionType, "TargetAlias", "TargetAddress", "TargetPortalGroupTag":
		case "HeaderDigest":
			out.add(k, chooseDigest(v, &p.header))
		case "DataDigest":
			out.add(k, chooseDigest(v, &p.data))
		case keyMaxRecv:
			p.maxSend = number(v, minSegmentBytes, maxSendBytes)
		case "MaxBurstLength":
			p.maxBurst = number(v, minSegmentBytes, maxBurstBytes)
			out.add(k, strconv.Itoa(p.maxBurst))
		case "FirstBurstLength":
			p.firstBurst = number(v, minSegmentBytes, firstBurstBytes)
			out.add(k, strconv.Itoa(p.firstBurst))
		case "InitialR2T": // OR, and we would not ask for it
			p.initialR2T = v == valueYes
			out.add(k, yesNo(p.initialR2T))
		case "ImmediateData": // AND, and we take it
			p.immediate = v == valueYes
			out.add(k, yesNo(p.immediate))
		case "MaxOutstandingR2T", "MaxConnections":
			out.add(k, "1")
		case "ErrorRecoveryLevel", "DefaultTime2Retain":
			out.add(k, "0")
		case "DefaultTime2Wait":
			out.add(k, strconv.Itoa(number(v, 2, 3600)))
		case "DataPDUInOrder", "DataSequenceInOrder":
			out.add(k, valueYes)
		case "IFMarker", "OFMarker", "RDMAExtensions":
			out.add(k, valueNo)
		case "IFMarkInt", "OFMarkInt":
			out.add(k, valueIrrelevant)
		default:
			out.add(k, valueUnknown)
		}
	}
	p.firstBurst = min(p.firstBurst, p.maxBurst)
}

// chooseDigest takes the first method of the initiator's list that we know.
func chooseDigest(list string, on *bool) string {
	for x := range strings.SplitSeq(list, ",") {
		switch x {
		case valueNone:
			*on = false
			return x
		case "CRC32C":
			*on = true
			return x
		}
	}
	return valueReject
}
