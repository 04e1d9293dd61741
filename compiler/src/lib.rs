//! ONNX to a sealed policy image: import, lowering, memory plan, parity
