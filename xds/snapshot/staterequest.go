package snapshot

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// StateRequest is a DiscoveryRequest, of the state-of-the-world variant: Subscribe is all that the client wants of the
// type from now on, and there is no Unsubscribe and no Initial.
type StateRequest Request

// UnmarshalStateRequest reads the wire form, as UnmarshalRequest does that of the delta variant.
func UnmarshalStateRequest(b []byte, r *StateRequest) error {
	const (
		node        = 2
		names       = 3
		typeURL     = 4
		nonce       = 5
		errorDetail = 6
	)
	*r = StateRequest{}
	var from peer
	err := eachField(b, func(num protowire.Number, _ uint64, v []byte) error {
		if v == nil {
			return nil
		}
		var err error
		switch num {
		case node:
			err = from.read(v)
		case names:
			r.Subscribe, err = appendChecked(r.Subscribe, string(v))
		case typeURL:
			r.TypeURL, err = checked(string(v))
		case nonce:
			r.Nonce, err = checked(string(v))
		case errorDetail:
			r.Refused = true
			err = (*Request)(r).refusal(v)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("discovery request: %w", err)
	}
	r.NodeID, r.NodeVersion = from.id, from.version()
	return nil
}
